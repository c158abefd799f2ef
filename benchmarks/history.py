"""The writer of the history on a real Kafka: changes a second, memory, size, erasure and joining.

`python -m benchmarks.history` sends a million changes first, then starts one process and measures
from its start of reading to the last commit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deltalake import DeltaTable

from benchmarks.leads import BenchmarkLeads
from leadstream.local.broker import local_broker
