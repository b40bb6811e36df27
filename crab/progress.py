"""One progress bar for JupyterLab, terminals and notebooks run by `crab run`."""

import os

# Under `crab run` a notebook's standard error is passed on to the terminal, a widget is not.
if os.environ.get("CRAB_RUN"):
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
