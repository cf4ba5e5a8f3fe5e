"""Every error arrol raises on purpose.

::

    ArrolError (Exception)
    |-- ConfigError        (ValueError)         a field of a config or flag is wrong
    |-- DataError          (ValueError)         a data file, a column or a record is wrong
    |-- ModelError         (ValueError)         a model folder or tokenizer cannot be used
    |-- CheckpointError    (RuntimeError)       a checkpoint is absent, damaged or of another run
    |-- NonFiniteError     (ArithmeticError)    too many steps in a row without a finite gradient
    `-- MissingExtraError  (ImportError)        an optional package is not installed

Each message is one line and names the field, the value received and the next step. The command line turns any
:class:`ArrolError` into that line and exit code 2; nothing on disk has been overwritten by then.
"""


class ArrolError(Exception):
    """Base of all errors meant for the user."""

    def __str__(self) -> str:
        """One line that a terminal shows as it is, whatever a damaged file put into it.

        >>> str(DataError("key = a\\nb \\x1b[31m: wrong"))
        'key = a b \\\\x1b[31m: wrong'
        """
        return "".join(map(_printable, super().__str__()))


class ConfigError(ArrolError, ValueError):
    """A field of a config or a flag is wrong."""


class DataError(ArrolError, ValueError):
    """A data file, a column or a stored record is wrong."""


class ModelError(ArrolError, ValueError):
    """A model folder or a tokenizer cannot be used."""


class CheckpointError(ArrolError, RuntimeError):
    """A checkpoint is absent, damaged, cannot be written, or belongs to another run."""


class NonFiniteError(ArrolError, ArithmeticError):
    """Too many consecutive steps had a loss or gradient that is not finite."""


class MissingExtraError(ArrolError, ImportError):
    """An optional package is needed and not installed."""


def _printable(character: str) -> str:
    """A blank for other white space, an escape for what moves a cursor or is no text."""
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
