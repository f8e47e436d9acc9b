"""Workers of one ledger whose clocks disagree, whose file system refuses, and who cannot see each other's processes.

What the system says is changed by a library that is loaded before its own (LD_PRELOAD), not in Python: so that it holds
for whatever call a later version makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep.fake import planned_run
from tests.sweep.test_folder import folder_with

#: the time of day is SKEW seconds off; the first REFUSALS openings, and touches, of a heartbeat find a stale handle
LIES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long number(const char *name) { const char *said = getenv(name); return said ? atol(said) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += number("SKEW");
  return result;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

static int refuses(const char *path) {
  static int refused = 0;
  if (!path || !strstr(path, "/attempts/") || refused >= number("REFUSALS")) return 0;
  refused++;
  write(2, "refused\n", 8);
  errno = ESTALE;
  return 1;
}
static int opened(const char *name, const char *path, int flags, mode_t mode) {
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
  return (flags & O_WRONLY) && strstr(path, ".beat") && refuses(path) ? -1 : real(path, flags, mode);
}
#define OPEN(NAME) int NAME(const char *path, int flags, ...) { \
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest); \
  return opened(#NAME, path, flags, mode); }
OPEN(open)
OPEN(open64)
int utimensat(int at, const char *path, const struct timespec times[2], int flags) {
  int (*real)(int, const char *, const struct timespec *, int) = dlsym(RTLD_NEXT, "utimensat");
  return refuses(path) ? -1 : real(at, path, times, flags);
}
"""

#: works the ledger off as a worker in container NAME, which sees no other one's processes; a run takes 8 s
WORKER = """
import os, sys, time
from pathlib import Path
from isoembed.sweep import folder as places, work
from tests.sweep.fake import record
places._namespace = lambda: sys.argv[2]
work.HEARTBEAT_SECONDS = work._POLL_SECONDS = 0.1
def train(run, place):
    print("trains", flush=True)
    time.sleep(8)
    return record(run.recipe)
print(time.time(), flush=True)
print("wrote", work.work(places.SweepFolder(Path(sys.argv[1]), stale_seconds=4.0), train))
"""


@pytest.fixture(scope="module")
def lies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs gcc, and Linux")
    folder = tmp_path_factory.mktemp("lies")
    (folder / "lies.c").write_text(LIES)
    built = [compiler, "-shared", "-fPIC", "-w", "-O1", "-o", str(folder / "lies.so"), str(folder / "lies.c"), "-ldl"]
    subprocess.run(built, check=True)
    return folder / "lies.so"


def test_live_workers_are_not_given_up(lies: Path, tmp_path: Path) -> None:
    """Clocks 400 s apart, one whose first heartbeats fail: the run was taken from its living worker, again and again,
    failed for good, and the finished record was thrown away."""
    folder = folder_with(tmp_path, planned := planned_run())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), f"pid:[{skew}]"],
            env=os.environ | {"LD_PRELOAD": str(lies), "SKEW": str(skew), "REFUSALS": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for skew in (-200, 0, 200)
    ]
    said = [worker.communicate(timeout=120) for worker in workers]
    clocks = [float(out.split()[0]) for out, _ in said]
    assert clocks[0] + 100 < clocks[1] < clocks[2] - 100  # they were lied to
    assert [err for _, err in said if err] == ["refused\n" * 3]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(out.split()[1:] for out, _ in said) == [["trains", "wrote", "1"], *2 * [["wrote", "0"]]]
    assert folder.attempts(planned.key) == [1]
    assert len(folder.ledger.records()) == 1
