"""What the drills share: processes, clusters and servers to break, the load they break under, and the account of it.

Every time here is of time.monotonic(), which all processes of a machine share, unless a name says otherwise.
"""

import os
import sys
from pathlib import Path

DRILLS = Path(__file__).resolve().parent.parent
"""The directory of the drills."""

ROOT = DRILLS.parent.parent
"""The root of the source tree."""

# The client for Python and its generated stubs, as they are in the tree; the drills need nothing that is installed by pip.
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))

# Trouble is what a drill makes: gRPC's own lines about it are noise.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
