"""The command line as `python -m taskflow_otel`."""

from taskflow_otel.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
