"""`make demo`: a recorded training run, played onto a real API server, arrives in a real MLflow, value for value.

`python -m deploy.demo --help` says what it takes. Modules: :mod:`.parts` starts and stops what the demo needs,
:mod:`.live` tells what happens while it happens, :mod:`.sides` reads what the code wrote, what Argo holds and what
MLflow holds, :mod:`.rows` compares them (pure), :mod:`.show` prints.
"""
