"""What pip installs beside the packages: the line that makes ``egg`` known to lm_eval's command line.

lm-evaluation-harness 0.4.13 looks for models in its own table alone; after it, the entry point in pyproject.toml
is enough (its pull request 4013). Python runs the line of a .pth file at every start: this one does nothing but
where ``lm_eval`` is what was started. setuptools loads this file by its path; nothing of egg imports it.
"""

from pathlib import Path

from setuptools.command.build_py import build_py

NAME = "egg_lm_eval.pth"
LINE = (
    'import sys; (("-m", "lm_eval") in zip(sys.orig_argv, sys.orig_argv[1:]) or '
    '"lm_eval" in "".join(sys.orig_argv[1:2]).replace("-", "_")) and __import__("egg.export.lm_eval_hook")\n'
)


class BuildWithLine(build_py):
    """Lays the line beside the packages, in a wheel and in an editable installation."""

    def run(self) -> None:
        """Build, and write the file."""
        super().run()
        there = self.build_lib
        if self.editable_mode:  # build_lib is thrown away then, what install_lib holds is not
            there = self.get_finalized_command("install").install_lib
        Path(there).mkdir(parents=True, exist_ok=True)
        Path(there, NAME).write_text(LINE)
