from __future__ import annotations

from trainer.training.reference_results import comparable


def test_sets_of_like_size_and_the_same_model_come_first():
    assert comparable("ddq_lite0", 80) == [
        "measured on sets of like size; yours may be easier or harder:",
        "  ddq_lite0 on 291 photographs of blood cells (BCCD, 3 classes): AP 0.59 to 0.60, AP50 0.91 to 0.92"
        " after 2,037 images seen",
        "  ddq_lite0 on 40 photographs of blood cells (BCCD, 3 classes): AP 0.53, AP50 0.86 after 800 images seen",
        "  ddq_lite0 on 160 photographs of raccoons (1 class): AP 0.59 to 0.66, AP50 0.92 to 0.99"
        " after 960 images seen",
        "  ddq_lite0 on 160 drawn images of many objects of 6 to 10 px, at 512 px: AP 0.74 to 0.75, AP50 0.92"
        " after 640 images seen",
    ]
    head, *rows = comparable("detr_resnet50", 40)
    assert "with other models; none was measured with detr_resnet50" in head
    assert [row.split()[:3] for row in rows] == [["ddq_lite0", "on", images] for images in ("40", "160", "160")]
    assert comparable("detr_tiny", 5000) == [
        "no results were measured on sets of about 5,000 images, so there is nothing to compare with"
    ]
