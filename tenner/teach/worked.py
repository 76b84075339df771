"""The embedded teacher: answers generated questions with the solution that came with them, at no price."""

import json

from tenner.errors import TennerError
from tenner.money.prices import find
from tenner.records import Usage
from tenner.teach.teacher import Call, Reply


class WorkedTeacher:
    """A `Teacher` without an account. Its tokens are words, as there is no tokenizer to count by."""

    def __init__(self) -> None:
        self.price = find("worked", "worked")

    def request(self, call: Call) -> dict[str, object]:
        return {"question_id": call.question.id, "question": call.question.question}

    def worst_case_usage(self, call: Call) -> Usage:
        return self._usage(call)

    async def send(self, call: Call) -> bytes:
        question = call.question
        if question.solution is None or question.answer is None:
            raise TennerError(
                f"question {question.id} has no worked solution", hint="the worked teacher answers generated questions"
            )
        body = {
            "thinking": question.solution,
            "answer": question.answer,
            "finish_reason": "stop",
            "usage": self._usage(call).model_dump(),
        }
        return json.dumps(body, ensure_ascii=False).encode()

    def parse(self, body: bytes) -> Reply:
        fields = json.loads(body)
        return Reply(fields["thinking"], fields["answer"], fields["finish_reason"], Usage(**fields["usage"]))

    def _usage(self, call: Call) -> Usage:
        thinking = len((call.question.solution or "").split())
        answer = len((call.question.answer or "").split())
        return Usage(
            input_tokens=len(call.question.question.split()),
            output_tokens=thinking + answer,
            reasoning_tokens=thinking,
        )
