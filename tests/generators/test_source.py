"""What counts as the same training code."""

from crab.generators import source

CODE = '''"""Module."""

def f(x, *, y=1):
    """Doc."""
    # Why.
    return [x + y, f"{x:.3f}", None]
'''


def test_prose_and_layout_do_not_count():
    other = CODE.replace("Doc.", "Other words.").replace("# Why.", "").replace("x + y", "(x +  y)")
    assert source.outline(other) == source.outline(CODE)


def test_code_counts():
    for old, new in (("y=1", "y=2"), ("x + y", "x - y"), ("None", "0"), (".3f", ".4f")):
        assert source.outline(CODE.replace(old, new)) != source.outline(CODE)


def test_known_answer():
    """The outline has no field that is empty, whatever the version of Python calls it."""
    assert source.outline("def f(a): pass") == [
        "Module",
        (
            "body",
            [
                [
                    "FunctionDef",
                    ("name", "'f'"),
                    ("args", ["arguments", ("args", [["arg", ("arg", "'a'")]])]),
                    ("body", [["Pass"]]),
                ]
            ],
        ),
    ]
