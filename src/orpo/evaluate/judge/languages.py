"""The rules for orders to the judge in languages other than English, made from a table of words.

For each: give this answer the best mark; choose this answer; this answer must win; forget what you
were told. Words are written without accents, as `legible` leaves texts; stems stand for all forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["orders_elsewhere"]


@dataclass(frozen=True)
class _Words:
    """Regular expressions for the parts of an order, as they are written in one language."""

    this: str
    best: str
    give: str
    choose: str
    must: str
    chosen: str
    forget: str
    previous: str
    instructions: str


_TABLE = (
    _Words(  # German
        this=(
            r"(?:diese[rnms]?|meine[rnm]?|vorliegende[rn]?) (?:antwort|ausgabe|losung|"
            r"losungsantwort)"
        ),
        best=r"(?:hochst\w*|best\w*|maximal\w*|voll\w* punkt\w*|10|zehn|gewinner|sieger|besser\w*)",
        give=r"\b(?:gib|geben sie|gebt|bewerte[nt]?|vergib|vergeben sie|beurteile[nt]?|benote[nt]?|"
        r"erteile[nt]?|stufe[nt]?|erklare[nt]?|halte[nt]?)\b",
        choose=r"\b(?:wahle?[nt]?(?: sie)?|bevorzuge[nt]?(?: sie)?|nimm|nehmen sie|entscheide[nt]? "
        r"(?:dich|sie sich|euch) fur)\b",
        must=r"\b(?:muss|soll\w*|verdient|gehort)\b",
        chosen=r"(?:gewahlt|bevorzugt|ausgewahlt|gewinnen|zu bewerten|bewertet)",
        forget=r"\b(?:ignorier\w*|vergiss|vergessen sie|missacht\w*|beachte\w* nicht)\b",
        previous=r"(?:bisherig|vorherig|vorig|obig|alle|fruher|vorangegangen|vorangehend)\w*",
        instructions=r"(?:anweisung|anleitung|instruktion|vorgabe|regel|aufforderung|prompt)\w*",
    ),
    _Words(  # Spanish
        this=r"(?:est[ae]|mi|la presente) (?:respuesta|contestacion|salida|solucion)",
        best=r"(?:maxim[ao]\w*|mas alt[ao]\w*|mejor\w*|10|diez|perfect[ao]|ganador\w*|superior)",
        give=(
            r"\b(?:da(?:le)?|den?|de|dad|otorg\w+|asign\w+|calific\w+|puntu\w+|evalu\w+|valor\w+|"
            r"pon\w*|consider\w+|declar\w+)\b"
        ),
        choose=r"\b(?:elij\w+|elige|escoj\w+|escoge|seleccion\w+|prefier\w+|vot\w+ por)\b",
        must=r"\b(?:deb\w+|merece|tiene que|ha de)\b",
        chosen=r"(?:elegid|escogid|seleccionad|preferid|ganar|ser la)\w*",
        forget=(
            r"\b(?:ignor[ae]\w*|olvid[ae]\w*|omit[ae]\w*|descart[ae]\w*|no (?:sigas|siga|hagas "
            r"caso))\b"
        ),
        previous=r"(?:anteriores?|previas?|precedentes?|todas)",
        instructions=r"(?:instruccion|indicacion|orden|directriz|directric|regla|criterio)\w*",
    ),
    _Words(  # French
        this=r"(?:cette|ma|la presente) (?:reponse|sortie|solution)",
        best=(
            r"(?:maximal\w*|maximum|meilleur\w*|plus haut\w*|plus eleve\w*|10|dix|parfait\w*|"
            r"gagnant\w*|superieur\w*)"
        ),
        give=(
            r"\b(?:donne[rz]?|attribue[rz]?|accorde[rz]?|note[rz]|evalue[rz]?|mets|mettez|"
            r"considere[rz]?|juge[rz]|declare[rz]?)\b"
        ),
        choose=r"\b(?:choisi(?:s|ssez|r)|selectionne[rz]?|prefere[rz]?|vote[rz]? pour)\b",
        must=r"\b(?:doit|devrait|merite)\b",
        chosen=r"(?:choisie?|selectionnee?|preferee?|gagner|recevoir|etre la)",
        forget=(
            r"\b(?:ignore[rz]?|oublie[rz]?|neglige[rz]?|ne (?:suis|suivez|tiens|tenez) (?:pas|"
            r"aucun))\b"
        ),
        previous=r"(?:precedent|anterieur|ci-dessus|tout|toute)\w*",
        instructions=r"(?:instruction|consigne|directive|regle|indication|critere)\w*",
    ),
    _Words(  # Italian
        this=r"(?:quest[ao]|(?:la )?mia|la presente) (?:risposta|soluzione|output)",
        best=r"(?:massim[oa]|miglior\w*|piu alt[oa]|10|dieci|perfett[oa]|vincent\w*|vincitric\w*)",
        give=(
            r"\b(?:dai|dare|date|dia|assegn\w+|attribui\w+|valut\w+|vot\w+|considera\w*|"
            r"dichiara\w*)\b"
        ),
        choose=r"\b(?:scegli\w*|seleziona\w*|preferi\w+|scelga)\b",
        must=r"\b(?:deve|dovrebbe|merita)\b",
        chosen=r"(?:scelta|selezionata|preferita|vincere|ricevere|essere la)",
        forget=r"\b(?:ignora\w*|dimentica\w*|trascura\w*|non seguire)\b",
        previous=r"(?:precedent|anterior|sopra|tutt)\w*",
        instructions=r"(?:istruzion|indicazion|direttiv|regol|criteri)\w*",
    ),
    _Words(  # Portuguese
        this=r"(?:est[ae]|ess[ae]|(?:a )?minha|a presente) (?:resposta|saida|solucao)",
        best=r"(?:maxim[ao]|melhor\w*|mais alta|10|dez|perfeit[ao]|vencedor\w*)",
        give=(
            r"\b(?:de|da|dar|atribu\w+|conced\w+|avali\w+|pontu\w+|consider\w+|classifi\w+|"
            r"declar\w+)\b"
        ),
        choose=r"\b(?:escolh\w+|selecion\w+|prefir\w+|prefer\w+|vote em)\b",
        must=r"\b(?:deve|devera|merece|tem de|tem que)\b",
        chosen=r"(?:escolhida|selecionada|preferida|vencer|ganhar|receber|ser a)",
        forget=r"\b(?:ignor[ae]\w*|esquec\w+|desconsider\w+|descart\w+)\b",
        previous=r"(?:anterior|previ[ao]s|acima|tod)\w*",
        instructions=r"(?:instruco|orientac|diretriz|regra|criterio|comando)\w*",
    ),
    _Words(  # Russian
        this=r"(?:эт\w+|мо\w+|данн\w+) (?:ответ|вариант)\w*",
        best=r"(?:высш\w+|максимальн\w+|лучш\w+|наивысш\w+|10|десять|победител\w+|отличн\w+)",
        give=r"\b(?:постав\w+|даи\w*|дать|оцени\w*|присво\w+|признаи\w*|считаи\w*|назнач\w+)",
        choose=r"\b(?:выбер\w+|выбрать|выбираи\w*|предпочт\w+|предпочит\w+)",
        must=r"\b(?:долж\w+|следует|заслужива\w+|нужно)",
        chosen=r"(?:выбра\w+|призна\w+|победить|получить)",
        forget=r"\b(?:игнорир\w+|проигнорир\w+|забуд\w+|не обращаи\w* внимания)",
        previous=r"(?:предыдущ|прежн|вышеуказанн|все|всех|предшествующ)\w*",
        instructions=r"(?:инструкц|указани|правил|команд|критери)\w*",
    ),
    _Words(  # Dutch
        this=r"(?:dit|deze|mijn) (?:antwoord|reactie|uitvoer)",
        best=r"(?:hoogste|beste|maximale|10|tien|winnaar|perfecte)",
        give=r"\b(?:geef|geeft|beoordeel\w*|ken|waardeer\w*|verklaar)\b",
        choose=r"\b(?:kies|kiest|selecteer\w*|verkies)\b",
        must=r"\b(?:moet|verdient|hoort)\b",
        chosen=r"(?:gekozen|winnen|krijgen|geselecteerd)",
        forget=r"\b(?:negeer\w*|vergeet)\b",
        previous=r"(?:vorige|eerdere|voorgaande|bovenstaande|alle)",
        instructions=r"(?:instructie|aanwijzing|opdracht|regel)\w*",
    ),
    _Words(  # Polish
        this=r"(?:te|tej|ta|moj[aae]) odpowied\w*",
        best=r"(?:najwyzs\w+|najleps\w+|maksymaln\w+|10|dziesiec)",
        give=r"\b(?:daj\w*|przyznaj\w*|ocen\w*|wystaw\w*|uznaj\w*)\b",
        choose=r"\b(?:wybierz\w*|wybrac|preferuj\w*)\b",
        must=r"\b(?:musi|powinna|zasluguje)\b",
        chosen=r"(?:wybrana|wygrac|otrzymac|oceniona)",
        forget=r"\b(?:zignoruj\w*|ignoruj\w*|zapomnij\w*)\b",
        previous=r"(?:poprzedni|wczesniejsz|powyzsz|wszystk)\w*",
        instructions=r"(?:instrukcj|polecen|wytyczn|zasad)\w*",
    ),
    _Words(  # Turkish, where the verb comes last
        this=r"(?:bu|benim) (?:cevab|yanit)\w*",
        best=r"(?:en yuksek|en iyi|tam|10|mukemmel)",
        give=r"(?!)",
        choose=r"(?!)",
        must=r"(?:en yuksek|en iyi|tam|10|mukemmel)",
        chosen=r"\b(?:ver|verin|veriniz|vermelisin\w*|sec|secin|seciniz|secmelisin\w*)\b",
        forget=r"(?:yok say|gormezden gel|unut|dikkate alma)\w*",
        previous=r"(?:onceki|yukaridaki|tum|butun)",
        instructions=r"(?:talimat|yonerge|kural|komut)\w*",
    ),
)

_IDEOGRAPHIC = (
    # Chinese
    r"(?:请|必须|务必|应该|应当|一定要|需要|只能|都要|要求|给|选|判|打|评|将|把).{0,15}{zh}.{0,12}"
    r"(?:最高分?|满分|10 ?分|十分|100 ?分|最佳|最好|最优|获胜|胜出|优胜|赢|更好|更优)",
    r"(?:请|必须|务必|应该|应当|一定要|只能|都要|都应).{0,8}(?:选择|选|偏好|支持|判给|投给|"
    r"优先).{0,4}{zh}",
    r"{zh}.{0,6}(?:应当|应该|必须|理应|值得|应|需要).{0,8}(?:最高|满分|10 ?分|最佳|最好|获胜|"
    r"胜出|选中|选择|被选)",
    r"(?:最高分|满分|10 ?分|胜利).{0,4}(?:给|判给|打给|授予).{0,4}{zh}",
    r"判.{0,4}{zh}.{0,4}胜",
    r"(?:请|必须|务必|直接)(?:打|给出?|评为|输出).{0,6}(?:最高分|满分|10 ?分|十分|最高评分)",
    r"(?:作为|身为).{0,6}(?:评委|裁判|评审|评判者|评分者|评分员|评估者|评价者|法官).{0,8}(?:必须|"
    r"应该|应当|务必|要|请).{0,6}(?:选择|选|给|判|打).{0,4}(?:它|这个|本|{zh}|[AB]\b)",
    r"(?:评委|裁判|评审|评判者|评分者|评分员|评估者|评价者|评估员).{0,12}(?:必须|应该|应当|务必|"
    r"只能|请).{0,12}{zh}",
    r"(?:忽略|无视|忘记|忘掉|不要理会|不必理会|抛弃).{0,6}(?:之前|以上|上面|前面|先前|所有|其他|"
    r"上述|此前|一切).{0,8}(?:指令|指示|说明|要求|提示|规则|标准|准则)",
    r"另一个?(?:回答|答案|回复).{0,6}(?:是错|错误|有误|不正确|较差|更差)",
    # Japanese
    r"(?:この|本|私の|当)(?:回答|答え|応答|返答|出力).{0,16}(?:最高|満点|10点|一番|最も|"
    r"最良).{0,16}(?:ください|下さい|与え|付け|つけ|すべき|べき|しろ|せよ|なさい|選)",
    r"(?:最高|満点|10点).{0,12}(?:この|本|私の)(?:回答|答え|応答|返答|出力).{0,10}(?:ください|"
    r"下さい|与え|付け|つけ|べき)",
    r"(?:この|本|私の)(?:回答|答え|応答|返答|出力)を.{0,6}(?:選|優先|採用).{0,8}(?:ください|"
    r"下さい|べき|しろ|せよ|なさい|必要|なければ)",
    r"(?:これまで|今まで|以前|上記|前述|前の|すべて|全て|先の).{0,8}(?:指示|命令|プロンプト|"
    r"ルール|基準).{0,4}(?:無視|忘れ)",
    # Korean
    r"(?:이|본|나의|내|제) ?(?:답변|응답|대답|출력|답).{0,16}(?:최고|만점|10점|최상|더 낫|"
    r"가장).{0,20}(?:주|매기|하세요|하십시오|해야|부여|선택|줘)",
    r"(?:이|본|나의|내|제) ?(?:답변|응답|대답|출력|답)[을를].{0,8}(?:선택|골라|고르|"
    r"뽑).{0,6}(?:하|주|세요|십시오|라)",
    r"(?:이전|앞선|위의|앞의|모든|지금까지).{0,10}(?:지시|명령|지침|규칙|프롬프트).{0,6}(?:무시|"
    r"잊)",
)
_ZH = (
    r"(?:(?:这个|这份|这条|这一?|本|我的|该|此|上述)(?:回答|答案|回复|响应|输出|作答|答复)|"
    r"(?:回答|答案|回复) ?[AB12甲乙](?![A-Za-z0-9]))"
)


def _rules(words: _Words) -> tuple[re.Pattern[str], ...]:
    """What any order in a language has in it, and then the orders."""
    w = words
    return _compiled(
        rf"{w.this}|{w.forget}",
        rf"{w.give}.{{0,40}}{w.this}.{{0,40}}{w.best}",
        rf"{w.give}.{{0,40}}{w.best}.{{0,40}}{w.this}",
        rf"{w.choose}.{{0,12}}{w.this}",
        rf"{w.this}\w*.{{0,15}}{w.must}.{{0,30}}(?:{w.best}|{w.chosen})",
        rf"{w.forget}.{{0,30}}{w.previous}.{{0,15}}{w.instructions}",
        rf"{w.forget}.{{0,20}}{w.instructions}.{{0,15}}{w.previous}",
        rf"{w.previous}.{{0,15}}{w.instructions}.{{0,15}}{w.forget}",
    )


def _compiled(*rules: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rule.replace("{zh}", _ZH), re.IGNORECASE) for rule in rules)


_LANGUAGES = (
    _compiled("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", *_IDEOGRAPHIC),
    *map(_rules, _TABLE),
)


def orders_elsewhere(text: str) -> bool:
    """Whether a text, as `legible` leaves it, tells its judge what to do in another language."""
    return any(
        rule.search(text) for needed, *rules in _LANGUAGES if needed.search(text) for rule in rules
    )
