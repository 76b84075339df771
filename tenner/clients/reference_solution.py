"""The embedded client: answers a question with the reference solution that it carries, at no price."""

import json

from tenner.budget.prices import find
from tenner.clients.protocol import Call, Reply, Request, Response
from tenner.clients.reply_outcome import judge
from tenner.clients.thinking import Thought
from tenner.core.errors import TennerError
from tenner.core.records import Usage


class ReferenceSolutionClient:
    """A `Client` that needs no account. It counts words as tokens, since it has no tokenizer."""

    reasoning_is_summary = False
    secret = ""

    def __init__(self) -> None:
        self.price = find("reference-solution", "reference-solution")

    async def check(self) -> None:
        """There is no server to check."""

    def request(self, call: Call) -> Request:
        return {"question_id": call.question.id, "question": call.question.question}

    def worst_case_usage(self, call: Call, request: Request) -> Usage:  # noqa: ARG002  the solution is in the question
        return _usage(call)

    async def send(self, call: Call, request: Request) -> Response:  # noqa: ARG002  the solution is in the question
        question = call.question
        if question.solution is None or question.answer is None:
            raise TennerError(
                f"question {question.id} has no reference solution",
                hint="this client answers questions that carry a solution, such as generated ones",
            )
        body = {"thinking": question.solution, "answer": question.answer, "usage": _usage(call).model_dump()}
        return Response(json.dumps(body, ensure_ascii=False).encode(), "application/json")

    def parse(self, response: Response) -> Reply:
        fields = json.loads(response.body)
        return judge(Thought(fields["thinking"], fields["answer"]), "stop", usage=Usage(**fields["usage"]))

    async def close(self) -> None:
        """There is nothing to close."""


def _usage(call: Call) -> Usage:
    thinking = len((call.question.solution or "").split())
    answer = len((call.question.answer or "").split())
    return Usage(
        input_tokens=len(call.question.question.split()),
        output_tokens=thinking + answer,
        reasoning_tokens=thinking,
    )
