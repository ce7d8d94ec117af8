import os

# as the command line does: torch's threads must not spin where tests share the cores with something else
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
