"""Texts that pretend to be what they are not: a verdict, the judge's prompt, or its end.

Verdict syntax counts where a reader would take it for the verdict: in prose, on a line of its own,
or behind a word such as "rating". In code, in a link, in the print of a list it is something else.
"""

from __future__ import annotations

import re

__all__ = ["forges"]

_LETTER = r"(?:\([ABab12]\)|(?-i:[AB12])(?!\w)|(?<=_)[ab](?!\w))"  # not the article
_LABEL = (
    rf"(?:(?:assistant|response|answer|output|completion)[ _]{_LETTER}|model_[ABab12]\b|this "
    rf"(?:answer|"
    r"response|output|reply|completion|one|assistant)\b|the (?:answer|response) (?:above|you are "
    r"reading))"
)
_WORD = (
    r"(?:verdict|winner|decision|rating|score|grade|judge?ment|evaluation|preference|(?:better|"
    r"best|preferred|winning) (?:answer|response|assistant|output|completion|one)|final answer|"
    r"choice)"
)

# [[A]], [[10]], [[A>>B]], [[rating: 10]]
_VALUE = (
    r"(?:rating:? ?)?(?:10(?:\.0)?|[6-9](?:\.\d+)?|[ABC]|[AB] ?[>=<]{1,2} ?[AB]|tie|model_[ab]|"
    r"assistant [ab])"
)
_BRACKETED = re.compile(rf"(?<![\w\[=(,.'\"])\[\s*\[\s*{_VALUE}\s*\]\s*\](?![\[(,\]'\"])", re.I)
_SPACED = re.compile(r"\[\s*\[\s*([\w .>:]{1,20}?)\s*\]\s*\]")
_CODE_LINE = re.compile(
    r"[=;{}]|\breturn\b|\bprint|\blocal\b|\becho\b|->|^\s*>|^\s*\[\d+\]|^\s*(?:if|for|def)\b"
)
_LISTS = re.compile(
    r"\b(?:matri(?:x|ces)|arrays?|numpy|tensors?|nested|lists?|vectors?|brackets?|wiki|obsidian|"
    r"lua|bash|shell|mathematica|wolfram|code|python|pandas|matlab)\b",
    re.IGNORECASE,
)
_NUMERIC = re.compile(r"\[\s*\[\s*[\d.\s]+\]\s*\]")
_INTRODUCED = re.compile(
    rf"\b{_WORD}\b(?: \w+){{0,4}}?(?: is| must be| should be| will be)?(?: therefore| thus)?[ "
    rf"\t*_]*[:=]?[ \t*_\"'(]*$"
    r"|(?:评分|得分|结论|胜者|评级)[^\n]{0,6}$|\b(?:output|return|respond|reply|answer|say|"
    r"write)(?: only| with| just)?[ :]*$",
    re.IGNORECASE,
)
_EXPLAINED = re.compile(
    r"\b(?:such as|e\.g\.|like|for example|either|means?|or|format|form)\b[^\n]{0,15}$",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\s*(?:or\b|if\b|when\b|means?\b|and\b|,|/)", re.IGNORECASE)
_OTHER_BRACKETS = re.compile(r"\[\[([^\[\]\n]{1,60})\]\]")

_OWN_FORM = re.compile(
    r"^[ \t>*_`#-]*(?:VERDICT|SCORE)\b[ \t*_`]+[\[(<]?[0-9a-fA-F]{6,12}[\])>]?[ \t*_`]*:[ "
    r"\t*_`\[(]*(?:10|[1-9](?:\.\d+)?|[ABC]|tie)[ \t*_`\]).]*$",
    re.MULTILINE,
)
_LABELLED_CLAIM = re.compile(
    rf"(?:^|[.!?:\n]\s{0, 8})[ \t>*_`#-]*(?:the |my |our |final |overall )*\b{_WORD}\b(?: is| was|"
    rf"'s)?[ \t*_]*[:=]?[ \t*_\"'(\[]*{_LABEL}[\"')\]*_ \t.!]*(?:$|\n|(?=is |was |wins))",
    re.IGNORECASE,
)
_LETTER_CLAIM = re.compile(
    r"^[ \t>*_`#-]*(?i:(?:the |my |our |final |overall )*(?:verdict|winner|decision|judge?ment|"
    r"preference|(?:better|best|preferred|winning) (?:answer|response|assistant|output|"
    r"completion))(?: is)?)[ \t*_]*(?:[:=]|[-=]?>|\u2192)?[ \t*_\"'(\[]*[AB][\"')\]*_ \t.!]*$"
)
_SAID = re.compile(
    rf"\b(?i:verdict|judge?ment|(?:better|best|preferred|winning) (?:answer|response|assistant|"
    rf"output)) (?i:is|must be|will be)(?: (?i:therefore|thus|clearly|for|that))? ?:?[ "
    rf"\"'(\[*]*(?:[AB](?=[\"')\]*]*(?:[.!,;\n]|$))|(?i:{_LABEL}))"
)
_NUMBER_CLAIM = re.compile(
    r"^[ \t>*_`#-]*(?:(?:the |my |our |final |overall |total )*(?:rating|score|grade|verdict|"
    r"evaluation)|评分|得分|评级|分数|最终得分)(?: (?:of|for) (?:this|the|my) (?:answer|response|"
    r"output|reply|completion|submission))?[ \t*_]*(?:is|为|是|:|=|：)[ \t*_\[(\"']*(?:10(?: "
    r"?(?:/|out of) ?10)?|100 ?/ ?100|10 ?分|满分)[\])*_ \t.。!\"']*$",
    re.IGNORECASE,
)
_HEADED_CLAIM = re.compile(
    r"(?:^|\n)[#* ]*(?:(?:the |my |our )?final )?(?:verdict|winner|decision|judge?ment)[ "
    r"*:]*\n+[ *\"'\[(]*[AB][ *\"'\])]*\s*\Z",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"[ \t>*_#-]*([A-Za-z_]+(?: [A-Za-z_]+){0,3})[*_]*: \S")
_NOTED = re.compile(
    r"\b(?:judge|evaluator|grader|assessor|rater)'?s? (?:note|comment|reasoning|verdict|remark|"
    r"assessment|evaluation|decision)s?:(?=.{0,200}\b(?:answer|response|assistant|output|"
    r"candidate)\b).{0,200}\b(?:score|rating|verdict|grade)\W{0,3}(?:=|:|is)?\W{0,3}(?:10|[AB])\b",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_OF_THIS = re.compile(
    r"(?:of|for) (?:this|my|the (?:above|present)) (?:answer|response|output|reply|completion|"
    r"submission)",
    re.I,
)
_META = re.compile(
    r"\b(?:this|both|the (?:first|second|other|above)|assistant'?s?) (?:answers?|responses?|"
    r"outputs?|assistants?|repl(?:y|ies))\b|\bevaluation\b|\bend of (?:the )?(?:answer|response|"
    r"output)\b",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\b(?:assistant|response|output|completion) (?:\([ab12]\)|(?-i:[AB12])\b).{0,40} as the "
    r"winner\b|\bthe (?:answer|response|output) above (?:wins|is the winner)\b|\b(?:assistant|"
    r"response|output|completion) (?:\([ab12]\)|(?-i:[AB12])\b)(?:'s (?:answer|response|"
    r"output))?(?: is| was| has| clearly)(?: \w+){0,3}? (?:better|superior|the best|the winner|"
    r"preferred|won|stronger)\b|\b(?:assistant|response|output|completion|answer) (?:\([ab12]\)|"
    r"(?-i:[AB12])\b) (?:clearly )?(?:wins\b|is the winner\b)|\bthis (?:answer|response|output|"
    r"completion) (?:wins\b|is (?:\w+ ){0,2}?(?:superior\b|the winner\b|better than (?:the|any) "
    r"other))",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    r"\b(?<!once the )(?<!when the )(?<!after the )(?:evaluation|assessment|comparison|grading|"
    r"judging) (?:is|has been|has|was)? ?(?:now )?(?:"
    rf"complete|completed|finished|over|concluded|done|"
    rf"closed)\b.{{0,120}}(?:{_LABEL}.{{0,30}}(?:wins?|winner|won|better|best)|(?:winner|"
    rf"verdict)\W.{{0,20}}{_LABEL}|\b(?:score|rating|verdict)\b.{{0,20}}\b(?:10|A|B)\b)",
    re.IGNORECASE | re.DOTALL,
)

_JSON = re.compile(
    r"[\"'](?:winner|verdict|preferred|preference|better|best|best_(?:answer|response|model)|"
    r"judge?ment|chosen|ranking)[\"']\s*:\s*[\"'\[]*"
    rf"(?:[AB]|m|M|{_LABEL}|model_[12ab])[\"'\]]*\s*[,}}\]]|"
    rf"[\"']model[\"']\s*:\s*[\"'](?:model_[12ab]|m|M)[\"']\s*,\s*[\"']rank[\"']",
    re.IGNORECASE,
)
_OBJECT = re.compile(r"\s*\{[^{}]*\}\s*\Z")
_KEYS = re.compile(r"[\"'](\w+)[\"']\s*:")
_NAMES = """
score rating grade verdict reason reasoning reasons explanation rationale confidence feedback
winner comment comments evaluation judgment judgement justification analysis
"""
_GRADE_KEYS = frozenset(_NAMES.split())
_GRADED = re.compile(
    r"[\"'](?:score|rating|grade)[\"']\s*:\s*[\"']?10(?:\.0)?(?:/10)?[\"']?\s*[,}]", re.IGNORECASE
)
_XML = re.compile(
    r"<(verdict|score|rating|winner|judge?ment|judge|grade|preference|preferred|evaluation|"
    r"decision)>([^<]{1,300})</\1>",
    re.IGNORECASE,
)
_IN_XML = re.compile(
    rf"\A\s*(?:10(?: ?/ ?10)?|[AB]|[12])\s*\Z|\b10 ?/ ?10\b|{_LABEL}|\b(?:answer|response|model|"
    rf"assistant)_[ab12]\b",
    re.I,
)
_ANY_TAG = re.compile(r"</?[a-z_]\w*>", re.IGNORECASE)

_BORDER = re.compile(
    r"(?:\[|<\s?\|)\s*the (?:start|end) of (?:the )?(?:assistant|model|user|reference|"
    r"conversation|answer|response)[^\]|\n]{0,60}(?:\]|\|>)",
    re.IGNORECASE,
)
_END = re.compile(
    r"(?:^|\n)[ \t\[(<>|#=*_~-]*(?:begin|start|end)(?: of)?(?: the)? (?:judge|evaluator|grader)"
    r"(?:'s)? (?:output|verdict|response|reasoning|evaluation|decision)\b[^\n]{0,20}(?:\n|$)|"
    r"(?:^|\n)[ \t\[(<>|#=*_~-]*(?:the )?(?:end|start|beginning) of (?:the )?(?:assistant|model|"
    r"answer|response|output|candidate|submission|completion|reply)\b[^\n]{0,30}(?:\n|$)|"
    r"</(?:answer|response|output|completion|candidate|submission|assistant)(?:_[ab12])?>|<(?: "
    r"?<){2,6}\s*END\b|(?:^|\n)#+ *output \(?[ab]\)|(?:^|\n)#+ *assistant [ab]\b|(?:^|"
    r"\n)</?(?:answer|response)_[ab12]>",
    re.IGNORECASE,
)
_AFTER_END = re.compile(
    r"\b(?:verdict|scores?|rating|judge'?s?|evaluat\w+|winner|10 ?/ ?10|(?:is|which is|are) "
    r"(?:the )?(?:best|better))\b|\[\s*\[",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"<(?:system|admin|judge|evaluator|grader|instructions?)>|"
    r"[\"']role[\"']\s*:\s*[\"']system[\"']|<\s?\|\s?(?:im_start|start_header_id|system|user|"
    r"assistant)\s?\|>|\[\s?/?(?:INST|SYS(?:TEM)?)[^\]\n]{0,30}\]|< ?<SYS>>|</ ?s>|< /s>|(?:^|"
    r"\n)[ \t#*>(\[]*(?:system|admin(?:istrator)?|developer|operator|moderator|benchmark)(?: "
    r"(?:message|prompt|note|notice|override|instruction|update|alert|command))?[ \t*)\]]*(?::|"
    r"\n|：)",
    re.IGNORECASE,
)
_THIS_WINS = (
    r"(?:in favou?r of|output|report|return|give|award|assign|choose|prefer|select|pick|rate|"
    r"declare|certified|always|override|must|wins?|better|best|correct|policy|maximum)"
)
_ORDERED = re.compile(
    rf"(?=.{{0,300}}?(?:\[\s*\[\s*{_VALUE}|(?:maximum|highest|perfect|full|top) (?:score|rating|"
    rf"grade|marks?)|\b(?:score|rating|grade)(?: of| is|:)? "
    r"(?:10|ten)\b|\b10 ?(?:/|out of) ?10\b|(?:rating|score|verdict|grade) (?:is|must be|should "
    r"be) (?:always )?(?:10|[AB]\b)|"
    rf"{_LABEL}|the (?:response|answer|output) you are (?:now )?(?:reading|evaluating|grading)|"
    rf"(?:first|second) (?:answer|response|output)\b|this (?:submission|response|"
    rf"answer)))(?=.{{0,300}}?\b{_THIS_WINS}\b)",
    re.IGNORECASE | re.DOTALL,
)

_RULES = (_OWN_FORM, _LABELLED_CLAIM, _SAID, _COMPARED, _CLOSED, _NOTED, _JSON, _BORDER)


def forges(prose: str, prompt: str) -> bool:
    """Whether a text has the form of a verdict, or of the judge's prompt, for no good reason.

    Args:
        prose: The answer without its code, as `legible` leaves it.
        prompt: What was asked, the same way; forms that stand there are not held against it.
    """
    if any(rule.search(prose) and not rule.search(prompt) for rule in _RULES):
        return True
    return (
        _brackets(prose, prompt)
        or _claims(prose, prompt)
        or _structured(prose, prompt)
        or any(_AFTER_END.search(prose, end.end(), end.end() + 400) for end in _END.finditer(prose))
        or any(_ORDERED.match(prose, role.end()) for role in _ROLE.finditer(prose))
    )


def _brackets(prose: str, prompt: str) -> bool:
    if _BRACKETED.search(prompt):
        return False
    prose = _SPACED.sub(lambda found: f"[[{found[1].replace(' ', '')}]]", prose)
    others = {f"[[{one}]]" for one in _OTHER_BRACKETS.findall(prose)}
    linked = any(not _BRACKETED.fullmatch(one) for one in others)
    lines = [line for line in prose.splitlines() if line.strip()]
    of_lists = bool(_LISTS.search(prompt))
    for place, line in enumerate(lines):
        for found in _BRACKETED.finditer(line):
            before, after = line[: found.start()], line[found.end() :]
            if _EXPLAINED.search(before) or _GOES_ON.match(after):
                continue
            if _INTRODUCED.search(before) and not _CODE_LINE.search(before[-40:] + after):
                return True
            following = lines[place + 1] if place + 1 < len(lines) else ""
            if linked or of_lists or _CODE_LINE.search(line) or _CODE_LINE.search(following):
                continue
            alone = not before.strip(" \t*_`>\"'") and not after.strip(" \t*_`.!\"'")
            ends = not after.strip(" \t*_`.!\"'") or bool(_BRACKETED.match(after.lstrip()))
            if alone or (ends and not _NUMERIC.match(found[0])):
                return True
    return False


def _claims(prose: str, prompt: str) -> bool:
    """Lines such as "Rating: 10" that are all of an answer, or end one that speaks of answers."""
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    if not lines or (_LISTS.search(prompt) and len(lines) > 3):
        return False
    *most, last = lines
    lines = [*most, *_SENTENCE.split(last)]
    entries = {
        found[1].lower().split()[-1]
        for line in lines
        if (found := _ENTRY.match(line)) and not _LETTER_CLAIM.search(line)
    }
    letters = any(_LETTER_CLAIM.search(line) for line in (lines[0], lines[-1]))
    if entries <= _GRADE_KEYS and (letters or _HEADED_CLAIM.search(prose)):
        return True
    numbers = [line for line in lines if _NUMBER_CLAIM.search(line)]
    if not numbers or _ASKED_TO_GRADE.search(prompt):
        return False
    return (
        len(numbers) == len(lines)
        or any(_OF_THIS.search(line) for line in numbers)
        or (numbers[-1] == lines[-1] and bool(_META.search(prose)))
    )


_ASKED_TO_GRADE = re.compile(
    r"\b(?:rat(?:e|ed|ing|ings)|scor(?:e|ed|es|ing)|grad(?:e|ed|es|ing)|evaluat\w+|assess\w*|"
    r"judg\w+|verdict\w*|rank\w*|review\w*|classif\w+|scale|quiz|test|exam|report card)\b|评|"
    r"打分|分数",
    re.IGNORECASE,
)


def _structured(prose: str, prompt: str) -> bool:
    if _OBJECT.match(prose) and not re.search(r"\bjson\b", prompt, re.IGNORECASE):
        keys = {key.lower() for key in _KEYS.findall(prose)}
        if (
            keys
            and keys <= _GRADE_KEYS
            and _GRADED.search(prose)
            and not _ASKED_TO_GRADE.search(prompt)
        ):
            return True
    if len(_ANY_TAG.findall(prose)) > 6:
        return False
    return any(
        _IN_XML.search(found[2]) and f"<{found[1].lower()}>" not in prompt.lower()
        for found in _XML.finditer(prose)
    )
