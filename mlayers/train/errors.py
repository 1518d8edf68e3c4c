# SPDX-License-Identifier: Apache-2.0
"""What a user can mend: shown on the command line as one sentence, with exit code 2."""


class CommandError(Exception):
    """A problem in what the user gave; its message is one sentence that says what came."""


class UsageError(CommandError):
    """A flag, a combination of flags or an installation that cannot work."""


class DataError(CommandError):
    """A file or a column that cannot be used."""
