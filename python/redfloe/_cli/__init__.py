"""The command line: ``redfloe``, or ``python -m redfloe``.

A file of `commands` for each command. None of them imports Polars before it runs, so that
``redfloe --help`` and completion are quick.
"""
