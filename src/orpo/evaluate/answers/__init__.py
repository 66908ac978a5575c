"""Answers to questions: by a model here or behind a server, kept so that nothing is asked twice."""

from orpo.evaluate.answers.answering import answer_questions
from orpo.evaluate.answers.opening import open_source_of_answers
from orpo.evaluate.answers.questions import read_questions, spread
from orpo.evaluate.answers.types import Answered, AnswerSource, Asked, Question

__all__ = [
    "AnswerSource",
    "Answered",
    "Asked",
    "Question",
    "answer_questions",
    "open_source_of_answers",
    "read_questions",
    "spread",
]
