"""A process that opens runs with the vendor's client as its documentation says: `RUNS`, then says that it has."""

import json
import os
import sys
import tempfile

if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the client keeps a folder .neptune where it is started
        import neptune

        quiet = ("stdout", "stderr", "traceback", "hardware_metrics")
        options = {f"capture_{what}": False for what in quiet} | {"git_ref": False, "source_files": []}
        runs = [neptune.init_run(mode="sync", **options) for _ in range(int(sys.argv[1]))]
        for run in runs:
            for k in range(20):
                run[f"metric{k}"].append(k / 7, step=0)
        print(json.dumps({"runs": len(runs)}), file=answers, flush=True)
        sys.stdin.read()
