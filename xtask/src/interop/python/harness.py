"""What the checks share: our program as a child with lines, and one printed line per check."""

import queue
import subprocess
import threading
import time


def report(row, what, fault=None):
    print(f"FAIL {row} {what}: {fault}" if fault else f"ok {row} {what}", flush=True)


class Ours:
    """A program with lines, running."""

    def __init__(self, *command):
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put((time.monotonic(), line.rstrip("\n")))

    def wait(self, beginning, limit):
        """The first line from now on that begins so, and when it came; None after the limit."""
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0:
            try:
                at, line = self.lines.get(timeout=left)
            except queue.Empty:
                return None
            self.seen.append(line)
            if line.startswith(beginning):
                return at, line
        return None

    def say(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def end(self):
        """Closes its input, which ends our programs."""
        try:
            self.child.stdin.close()
        except OSError:
            pass
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.child.kill()
        self.child.wait()
