"""The boxes of the pipeline, one plain function a file; none of them knows who calls it."""
