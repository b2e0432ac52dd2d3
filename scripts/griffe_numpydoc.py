"""For the documentation site: what Griffe makes of our docstrings, put right.

mkdocs.yml names this file; mkdocstrings calls the class below while it reads the package.
"""

import re
from itertools import groupby, pairwise
from typing import Any

import griffe


class Numpydoc(griffe.Extension):
    """Show parameters as their docstrings and signatures have them."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Show `__new__` where there is no `__init__`: PyO3's classes have none."""
        new = cls.members.get("__new__")
        if isinstance(new, griffe.Function) and "__init__" not in cls.members:
            cls.del_member("__new__")
            new.name = "__init__"
            new.returns = None
            cls.set_member("__init__", new)
        init = cls.members.get("__init__")
        if isinstance(init, griffe.Function):
            _list_options(init, cls)
        _mend(cls)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """List the options that it takes, and put the parameters right."""
        _list_options(func, func)
        _mend(func)


def _list_options(function: griffe.Function, described: griffe.Class | griffe.Function) -> None:
    """List what `redfloe._options.takes` lists at run time: each option for ``**options``."""
    unpacked = [
        str(parameter.annotation.slice)
        for parameter in function.parameters
        if parameter.kind is griffe.ParameterKind.var_keyword
        and isinstance(parameter.annotation, griffe.ExprSubscript)
        and parameter.annotation.canonical_path == "typing.Unpack"
    ]
    module = function.modules_collection["redfloe._options"]
    options = module.members.get(unpacked[0]) if unpacked else None
    if options is None:
        return
    defaults = module["_EVERY"].value.arguments
    values = {default.name: default.value for default in defaults}
    del function.parameters["options"]
    for name, attribute in options.attributes.items():
        function.parameters.add(
            griffe.Parameter(
                name,
                annotation=attribute.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=values[name],
            )
        )
    paragraphs = "\n".join(
        kind.docstring.value.partition("----------\n")[2]
        for kind in [*reversed(options.mro()), options]
    )
    if described.docstring:  # not yet parsed
        text = described.docstring.value
        described.docstring.value = re.sub(
            r"^\*\*options .*\n(?: +.*(?:\n|$))+",
            lambda _: paragraphs + "\n",
            text,
            flags=re.MULTILINE,
        )


def _mend(described: griffe.Class | griffe.Function) -> None:
    # `parsed` is what is shown later; it is made once, and we change it in place.
    for section in described.docstring.parsed if described.docstring else ():
        if isinstance(section, griffe.DocstringSectionParameters):
            section.value = [
                _as_one(list(group), described.parameters)
                for _, group in groupby(section.value, key=lambda item: item.description)
            ]


def _as_one(
    items: list[griffe.DocstringParameter], signature: griffe.Parameters
) -> griffe.DocstringParameter:
    """Join what the docstring describes together: Griffe gives each name the first one's type."""
    first = items[0]
    declared = [signature[item.name] for item in items if item.name in signature]
    if not declared:
        return first
    types = [parameter.annotation for parameter in declared]
    # Without a type in the docstring it is the signature's; "{a, b}" it takes for a tuple.
    annotation = first.annotation
    if isinstance(annotation, griffe.ExprTuple) or str(annotation) == str(types[0]):
        annotation = _joined(types)
    default = first.default
    if len(items) > 1 and str(default) == str(declared[0].default):
        default = _joined([parameter.default for parameter in declared])
    return griffe.DocstringParameter(
        ", ".join(item.name for item in items),
        description=first.description,
        annotation=annotation,
        value=default,
    )


def _joined(expressions: list[str | griffe.Expr | None]) -> str | griffe.Expr | None:
    texts = [str(expression) for expression in expressions]
    if all(one == other for one, other in pairwise(texts)):
        return expressions[0]
    return ", ".join(texts)
