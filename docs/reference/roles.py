"""What docstrings leave to Sphinx, as Markdown, for the pages of this folder.

``:func:`lmm_jax.fit``` becomes a link where the name is public and code where it is not, and the
comment behind a field of a class becomes its docstring.
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|meth|class|attr|data|mod):`~?([\w.]+)`")
_COMMENT = re.compile(r"  # (?P<text>.+)$")


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """All docstrings of its modules."""
        self._walk(pkg, pkg)

    def _walk(self, thing: griffe.Object, pkg: griffe.Module) -> None:
        for member in thing.members.values():
            if not isinstance(member, griffe.Alias):
                if isinstance(member, griffe.Attribute) and isinstance(thing, griffe.Class):
                    _document(member)
                if member.docstring is not None:
                    member.docstring.value = _linked(member.docstring.value, member, pkg)
                self._walk(member, pkg)


def _document(field: griffe.Attribute) -> None:
    """A comment in the line of a field, as its docstring."""
    if field.docstring is None and field.lineno is not None:
        found = _COMMENT.search(field.lines_collection[field.filepath][field.lineno - 1])
        if found:
            text = found["text"].strip()
            field.docstring = griffe.Docstring(text[0].upper() + text[1:] + ".", parent=field)


def _linked(text: str, place: griffe.Object, pkg: griffe.Module) -> str:
    """References as links, by the public name."""

    def link(role: re.Match[str]) -> str:
        name = role[1].removeprefix(f"{pkg.name}.")
        owner = place.parent if isinstance(place.parent, griffe.Class) else place
        for full in (name, f"{owner.name}.{name}"):
            if _is_public(full, pkg):
                return f"[`{name}`][{pkg.name}.{full}]"
        return f"`{role[1]}`"

    return _ROLE.sub(link, text)


def _is_public(name: str, pkg: griffe.Module) -> bool:
    if name.split(".")[0] not in map(str, pkg.exports or ()):
        return False
    try:
        pkg[name]
    except KeyError:
        return False
    return True
