"""Reading what S3 answers."""

from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from steps.common.errors import StepError
from steps.storage.wire import Answer


def xml_of(answer: Answer, where: str) -> Any:
    try:
        return fromstring(bytes(answer.body))
    except (ParseError, DefusedXmlException, ValueError):
        raise StepError(f"what answers for {where} is no S3 server: check the endpoint") from None


def text_of(document: Any, name: str) -> str:
    return document.findtext(f"{{*}}{name}") or document.findtext(name) or ""
