"""A console that outlives its reader."""

import io
import os
import sys

import pytest

from arrol.cli.output import LastingStream, run_console


@pytest.fixture
def broken():
    """A text stream on a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", buffering=1)  # noqa: SIM115 - closed below
    yield stream
    stream.close()


def test_a_pipe_without_a_reader_takes_what_is_written(broken):
    with pytest.raises(BrokenPipeError):
        broken.write("lost\n")
    stream = LastingStream(broken)
    assert stream.write("more\n") == 5
    stream.write("and more\n")
    stream.flush()
    assert os.readlink(f"/proc/self/fd/{broken.fileno()}") == os.devnull


def test_a_flush_that_fails_is_dropped_too():
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        lasting = LastingStream(stream)
        lasting.write("buffered")
        os.close(reader)
        lasting.flush()
        lasting.flush()


def test_a_stream_without_a_descriptor_is_dropped_in_silence():
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    assert LastingStream(Gone()).write("x") == 1


def test_everything_else_is_the_streams(capsys):
    console = run_console(as_json=False)
    console.print("[x] to stdout")
    assert capsys.readouterr().out == "[x] to stdout\n"
    run_console(as_json=True).print("to stderr")
    assert capsys.readouterr() == ("", "to stderr\n")
    assert LastingStream(sys.stdout).encoding == sys.stdout.encoding
