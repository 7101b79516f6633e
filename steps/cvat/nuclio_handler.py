"""The `main.py` of a nuclio function for CVAT's "AI tools" menu: `steps.cvat.nuclio` writes a copy of this file.

nuclio calls `init_context` once for each worker, and `handler` for each image, with what CVAT's lambda manager sends.
"""

import base64
import json
from pathlib import Path
from typing import Any

import trainer
from steps.cvat.boxes import plain_boxes
from trainer.data.image_file import ImageError, open_image

CHECKPOINT = "model.pth"
"""The checkpoint's file beside this one."""


def init_context(context: Any) -> None:
    """Load the model that lies beside this file."""
    context.user_data.detector = trainer.load(Path(__file__).with_name(CHECKPOINT))
    context.logger.info(f"labels: {', '.join(context.user_data.detector.class_names)}")


def handler(context: Any, event: Any) -> Any:
    """Answer with the rectangles on an image.

    Args:
        context: of nuclio's, as `init_context` left it.
        event: its `body` has `image`, a file in base64, and may have `threshold`, the score from which a prediction
            counts; else the checkpoint's operating points do, by class.

    Returns:
        A JSON list: `confidence`, `label`, `points` [x0, y0, x1, y1] in px and `type` of each; status 400 and one line
        for what is no image.
    """
    body = event.body if isinstance(event.body, dict) else json.loads(event.body)
    try:
        with open_image(base64.b64decode(body["image"])) as image:
            image.load()
    except (KeyError, TypeError, ValueError, ImageError) as error:
        said = f"'image' is not an image in base64: {error}"
        return context.Response(body=said, headers={}, content_type="text/plain", status_code=400)
    detector = context.user_data.detector
    threshold = body.get("threshold")
    (found,) = detector.predict([image], None if threshold is None else float(threshold))
    shapes = [
        {"confidence": str(score), "label": detector.class_names[label], "points": points, "type": "rectangle"}
        for label, score, points in plain_boxes(found)
    ]
    return context.Response(body=json.dumps(shapes), headers={}, content_type="application/json", status_code=200)
