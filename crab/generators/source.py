"""Which code made a network: a finished one is taken over only if it is still the same."""

import ast
from pathlib import Path

from crab.provenance import params_hash

# What the weights of a trained network depend on.
_MODULES = (
    "adversarial",
    "backend",
    "gan",
    "latents",
    "normalise",
    "pretraining",
    "shot_noise",
    "training",
    "vae",
    "windows",
)


def digest() -> str:
    """Hash of the code that trains networks; comments, docstrings and layout do not count.

    Returns
    -------
    str
        12 hexadecimal digits, the same for every version of Python.
    """
    folder = Path(__file__).parent
    return params_hash(*(outline((folder / f"{name}.py").read_text()) for name in _MODULES))


def outline(code: str) -> list:
    """Syntax tree of a module as plain lists, without docstrings.

    Parameters
    ----------
    code : str

    Returns
    -------
    list
        Empty fields are left out: versions of Python differ in which of them there are.
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                del body[0]
    return _plain(tree)


def _plain(node):
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, getattr(node, name, None)) for name in node._fields)
    return [type(node).__name__, *((k, _plain(v)) for k, v in fields if v not in (None, []))]
