"""What `legato serve` prints."""

from pathlib import Path

from legato.cli.serve import greeting


def test_a_key_is_not_said_to_be_where_it_is_not(tmp_path: Path) -> None:
    """Of several servers with one database only the first one to start creates a key."""
    file = tmp_path / "key"
    assert "`legato keys create NAME`" in greeting("http://host", ["m"], None, file, "chat")
    file.touch()
    assert f"first start is in {file}" in greeting("http://host", ["m"], None, file, "chat")
