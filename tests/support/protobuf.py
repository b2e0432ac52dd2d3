"""Protobuf messages, compiled by `protoc` and written by Google's own library."""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import grpc_tools
from grpc_tools import protoc

_numbers = itertools.count()


@cache
def compiled(source: str) -> tuple[bytes, ModuleType]:
    """Give a file's descriptor set, and Python's module of its messages."""
    name = f"file{next(_numbers)}"
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / f"{name}.proto").write_text(source)
        arguments = [
            f"-I{folder}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_imports",
            f"--descriptor_set_out={folder / 'set.binpb'}",
            f"--python_out={folder}",
            f"{name}.proto",
        ]
        assert protoc.main(["", *arguments]) == 0
        spec = importlib.util.spec_from_file_location(f"{name}_pb2", folder / f"{name}_pb2.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return (folder / "set.binpb").read_bytes(), module
