import os

# Before torch is loaded, which starts the threads: those that spin while they wait for each other take the cores from
# the one they wait for as soon as another process wants some too (benchmarks/busy_neighbour.py).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from steps.cli import main

main()
