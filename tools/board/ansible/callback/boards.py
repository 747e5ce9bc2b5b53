"""What Ansible tells of boards: a line for each step that a person waits for, and at the end all of it in a file for the tool."""

import json
import os
import sys

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: boards
    type: stdout
    short_description: results by board, as JSON in the file that MIEN_RESULTS names
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "boards"

    def __init__(self):
        super().__init__()
        self.boards = {}

    def board(self, result):
        empty = {"said": {}, "changed": 0, "failed": "", "step": ""}
        return self.boards.setdefault(result._host.get_name(), empty)

    def v2_runner_on_start(self, host, task):
        # Steps with a capital are those that a person waits for.
        if task.get_name()[:1].isupper():
            print(f"   {host.get_name():<24} {task.get_name()}", file=sys.stderr)

    def v2_runner_on_ok(self, result):
        board, what = self.board(result), result._result
        board["changed"] += bool(what.get("changed"))
        board["said"][result._task.get_name()] = what.get("stdout", "")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if ignore_errors:
            return
        board, what = self.board(result), result._result
        words = [what.get("msg", ""), what.get("stderr", ""), what.get("stdout", "")]
        words = [item.get("msg", "") for item in what.get("results", []) if item.get("failed")] + words
        lines = [line for word in words for line in str(word).strip().splitlines() if line]
        dull = ("non-zero return code", "One or more items failed")
        board["failed"] = "; ".join(line for line in lines if line not in dull)[:600] or "failed"
        board["step"] = result._task.get_name()

    def v2_runner_on_unreachable(self, result):
        board = self.board(result)
        said = str(result._result.get("msg", "")).strip().splitlines() or ["no answer"]
        board["failed"] = f"cannot be reached: {said[-1]}"
        board["step"] = result._task.get_name()

    def v2_playbook_on_stats(self, stats):
        with open(os.environ["MIEN_RESULTS"], "w", encoding="utf-8") as file:
            json.dump(self.boards, file)
