"""The way back from a file of the dataset to its frame in CVAT."""

from pathlib import Path

from steps.common.files import parse_json

IDS = "cvat.json"
"""File in the dataset's folder with the server's ids of what was fetched from it."""


def frame_links(dataset_dir: Path) -> dict[Path, str]:
    """Give the addresses that open images in CVAT, by absolute path; none for a dump that is not from a server."""
    try:
        content = parse_json((dataset_dir / IDS).read_bytes())
        # A dump may hold a file of this name, with whatever somebody wants to be clicked on.
        if not content["server"].startswith(("http://", "https://")):
            return {}
        return {
            (dataset_dir / part["folder"] / name).absolute(): f"{content['server']}/tasks/{part['task']}"
            + next((f"/jobs/{job['id']}" for job in part["jobs"] if job["start"] <= frame <= job["stop"]), "")
            + f"?frame={frame}"
            for part in content["parts"]
            for name, frame in part["frames"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
