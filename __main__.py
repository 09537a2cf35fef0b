"""`python -m tunewell`, for launchers: `accelerate launch -m tunewell run ...`."""

from tunewell.pipelines.cli import main

if __name__ == "__main__":
    main()
