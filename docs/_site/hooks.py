"""What ``make docs`` adds to the pages: README as the first page, files that pages link to, an API page per package.

Links in the pages are paths of the repository, so that they also work where the files are read as they lie. A link that
leaves ``docs/`` is pointed at a copy of its target inside the site.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "arrol"
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = {".py": "python", ".sh": "bash", ".toml": "toml", ".yaml": "yaml"}
SOURCES: dict[str, Path] = {}
"""Page of the site -> the repository file that it shows; filled by ``on_files``."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, the files that pages link to, and the API pages."""
    SOURCES.clear()
    SOURCES["index.md"] = ROOT / "README.md"
    for page in files.documentation_pages():
        SOURCES[page.src_uri] = DOCS / page.src_uri
    own, unread = set(SOURCES) - {"index.md"}, list(SOURCES.values())
    while unread:
        for target in _linked(unread.pop()):
            if not target.is_relative_to(DOCS) and target.is_file() and _name(target) not in SOURCES:
                SOURCES[_name(target)] = target
                unread += [target] if target.suffix == ".md" else []
    for name in SOURCES.keys() - own:
        files.append(File.generated(config, name, content=_content(SOURCES[name])))
    modules = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    for part in sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules}):
        dotted = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
        inside = [name for name in dotted if f"{name}.".startswith(f"arrol.{part}.")]
        text = f"# arrol.{part}\n" + "".join(f"\n::: {name}\n" for name in inside)
        files.append(File.generated(config, f"api/{part}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the repository's links at the pages of the site."""
    source = SOURCES.get(page.file.src_uri)
    if source is None or source.suffix != ".md":
        return markdown
    ups = "../" * page.file.src_uri.count("/")

    def relink(match: re.Match[str]) -> str:
        return f"]({ups}{_name((source.parent / match[1]).resolve())}{match[2] or ''})"

    return LINK.sub(relink, markdown)


def _linked(page: Path) -> list[Path]:
    return [(page.parent / match[1]).resolve() for match in LINK.finditer(page.read_text("utf-8"))]


def _name(target: Path) -> str:
    """Path of a repository file inside the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    inside = target.relative_to(ROOT).as_posix()
    if inside == "README.md":
        return "index.md"
    return f"repo/{inside}.md" if target.suffix in CODE else f"repo/{inside}"


def _content(source: Path) -> str | bytes:
    if source.suffix in CODE:
        return f"# {source.relative_to(ROOT)}\n\n```{CODE[source.suffix]}\n{source.read_text('utf-8')}```\n"
    return source.read_text("utf-8") if source.suffix == ".md" else source.read_bytes()
