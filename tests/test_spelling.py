"""One spelling everywhere, the American one, as in the names of the API and of the frameworks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BRITISH = re.compile(
    r"(optim|minim|maxim|normal|factor|standard|regular|initial|general|quant|vector|stabil|summar|random|serial|"
    r"symmetr|linear|token|organ|recogn|emphas|discret|parametr|synchron)is(e|ing|ation|er|able)|behaviour|colour|"
    r"neighbour|favour|(?<![a-z])(centre|grey|licence|labelled|modelled|travelled|cancell)",
    re.IGNORECASE,
)


def test_one_spelling():
    folders = ["rebasin_core", "adapters", "tests", "examples", "docs"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    files = [path for path in (*files, *ROOT.glob("*.md")) if path != Path(__file__)]
    assert len(files) > 300
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path in files for match in BRITISH.finditer(path.read_text())]
    assert not found
