"""The phrases that introduce a final answer, in the languages that models answer in, and those that end it."""

import re

ENGLISH = (
    r"(?:\bfinal\s+)?\banswers?(?:\s+to\b[^.\n]{1,60}?)?\s*"
    r"(?:(?:is|are|should be|would be|equals|was|be|\*{1,2}\s*is)(?!\w)|=|\*{1,2}\s*:|:\s*\*{1,2}|:)"
    r"(?:\s+(?:therefore|thus|simply|then)\b)?",
    r"\bfinal\s+answer\b\**",
    r"\b(?:correct|right|best)\s+(?:option|choice)s?\s*(?:is|are|:)(?!\w)",
    r"^[ \t]*(?:#+[ \t]*\**|\*\*)(?:final[ \t]+)?answer\**[ \t]*$",
    r"^[ \t]*####(?!#)",
    r"^[ \t*]*ans(?:\.[ \t]*:?|[ \t]*[:=])\**",
)
COLON = r"\s*\**\s*:\s*\**"
OTHERS = (
    # Chinese and Japanese
    rf"\[?(?:答案|解答|回答|答え|正解)\]?\**\s*"
    rf"(?:(?:應該|应该|應|应|即|就)?(?:是|为|為|等于|等於)"
    rf"|选择?|選擇?|は[、,]?|{COLON})",
    rf"最[终終后後][结結]果(?:是|为|為|等于|等於|は|{COLON})",
    rf"(?<![\u4e00-\u9fff])[结結]果(?:是|为|為|等于|等於|{COLON})",
    r"^[ \t]*(?:#+[ \t]*\**|\*\*)最[终終]答案\**[ \t]*$",
    r"正[确確](?:选项|選項)(?:是|为|為|:)",
    r"\[(?:答案|答え|正解)\]",
    r"(?:故|所以|因此|应|應)?(?:选|選)(?:择|擇|项|項)?\s*:?\s*(?=\(?[A-J]{1,6}\)?(?![A-Za-z]))",
    rf"^[ \t*]*(?:答|解){COLON}",
    # Korean
    rf"(?:정답|(?<![가-힣])답안?|해답)(?:\s*(?:은|이)\s|은|{COLON})",
    # Russian, Ukrainian, Bulgarian
    r"(?<!\w)(?:ответ|відповідь|отговор(?:ът)?)\**\s*"
    r"(?:равен(?!\w)|[:=\u2014\u2013-]|\u0435(?!\w))\**",
    r"(?<!\w)итого\**\s*[:=]\**",
    # Western European languages
    r"(?<!\w)(?:die\s+lösung|das\s+ergebnis)\s+(?:ist|lautet|beträgt)(?!\w)\s*:?",
    rf"(?<!\w)(?:endergebnis|lösung){COLON}",
    rf"(?<!\w)(?:antwort|antwoord|svaret|svar)\**\s*(?:(?:ist|lautet|is|beträgt|är|er)(?!\w)|{COLON})",
    rf"(?<!\w)(?:réponse|respuesta|resposta|risposta)(?:\s+(?:finale?|correcta|correta|corretta))?\**\s*"
    rf"(?:(?:est|es|é|è)(?!\w)|{COLON})",
    # Vietnamese, Indonesian, Turkish, Polish, Czech, Hindi, Arabic, Thai, Finnish, Greek, Romanian, Hungarian
    r"คำตอบ\**\s*(?:คือ|:)\s*:?\**",
    rf"(?<!\w)(?:đáp án|đáp số|câu trả lời)(?:\s+(?:cuối cùng|đúng))?\**\s*(?:là(?!\w)|{COLON})",
    rf"(?<!\w)jawaban(?:nya)?(?:\s+akhir)?\**\s*(?:adalah(?!\w)|{COLON})",
    rf"(?<!\w)(?:cevap|yan\u0131t|odpowiedź|odpověď|vastaus|απάντηση|răspuns|válasz|उत्तर|الإجابة|الجواب){COLON}",
)
FOREIGN_ASCII = ("ergebnis", "vastaus", "antwo", "svar", "respuesta", "resposta", "risposta", "jawaban", "cevap")
ENGLISH_CUE, ANY_CUE = (
    re.compile(rf"(?:{'|'.join(phrases)})\s*:?\s*", re.IGNORECASE | re.MULTILINE)
    for phrases in (ENGLISH, (*ENGLISH, *OTHERS))
)


def cue_for(text: str) -> re.Pattern[str]:
    """The pattern of the phrases that may occur in a text: it ends where the answer begins.

    Full-width characters must have been replaced (`characters.as_ascii`). Most texts need the English phrases only,
    which are much faster to look for.
    """
    if not text.isascii():
        return ANY_CUE
    lower = text.lower()
    return ANY_CUE if any(stem in lower for stem in FOREIGN_ASCII) else ENGLISH_CUE


ANSWER_TAG = re.compile(
    r"<(?P<tag>(?:final_?)?answer)>(?P<content>(?:(?!</?(?P=tag)>).){1,4000}?)</(?P=tag)>", re.DOTALL | re.IGNORECASE
)
ANSWER_FIELD = re.compile(r'"(?:final[_ ]?)?answer"\s*:\s*("(?:[^"\\\n]|\\.){0,4000}"|-?[0-9][0-9.eE+-]{0,40})')

REASON = re.compile(
    r"(?<=[^.])\.(?=\s|$)|[!?](?=\s)(?![^$]*\$)|;(?=\s)(?![^$]*\$|[^(\[]*[)\]]|\s*[-+\d][^A-Za-z\u0400-\u04ff]*$)"
    r"|,?\s+\(?\b(?:because|since|as|so|which|where|when|if|denn|weil|porque)\b|,?\s+\(?(?:i\.e\.|that\s+is,)"
    r"|,?\s*\(?(?:因为|因為|所以|なぜなら|왜냐하면|"
    r"потому|так как)",
    re.IGNORECASE,
)
"""Where a statement ends, or goes on to give reasons. A semicolon in brackets or before a number separates items."""
POLITE_ENDING = re.compile(
    r"(?<=\S)\s*(?:です|である|となります|になります|となる|だ"
    r"|입니다|이다|이에요|예요)\s*\.?\s*$"
)
"""The copula that closes a Japanese or Korean sentence."""
