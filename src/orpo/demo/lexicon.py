"""The words that the demo's lists and translations are made of, English beside Chinese."""

from typing import Literal

Language = Literal["en", "zh"]
"""A language of prompts and answers."""

LANGUAGES: tuple[Language, ...] = ("en", "zh")

CHINESE: dict[str, str] = {
    "cat": "猫",
    "dog": "狗",
    "bird": "鸟",
    "fish": "鱼",
    "horse": "马",
    "cow": "奶牛",
    "sheep": "羊",
    "rabbit": "兔子",
    "tiger": "老虎",
    "pig": "猪",
    "apple": "苹果",
    "banana": "香蕉",
    "orange": "橙子",
    "pear": "梨",
    "grape": "葡萄",
    "peach": "桃子",
    "sun": "太阳",
    "moon": "月亮",
    "star": "星星",
    "river": "河流",
    "tree": "大树",
    "flower": "鲜花",
    "rain": "雨",
    "snow": "雪",
    "cloud": "云",
    "mountain": "高山",
    "book": "书",
    "pen": "钢笔",
    "table": "桌子",
    "chair": "椅子",
    "door": "门",
    "window": "窗户",
    "lamp": "灯",
    "cup": "杯子",
    "clock": "时钟",
    "shoe": "鞋",
    "hat": "帽子",
    "house": "房子",
    "car": "汽车",
    "boat": "小船",
    "bridge": "桥",
    "city": "城市",
    "bread": "面包",
    "milk": "牛奶",
    "egg": "鸡蛋",
    "rice": "米饭",
    "tea": "茶",
    "salt": "盐",
    "sugar": "糖",
    "eye": "眼睛",
    "king": "国王",
    "doctor": "医生",
    "teacher": "老师",
    "friend": "朋友",
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "yellow": "黄色",
}
"""Each English word with its Chinese translation; the translations are all different."""

ENGLISH: dict[str, str] = {chinese: english for english, chinese in CHINESE.items()}

WORDS: tuple[str, ...] = tuple(CHINESE)


def in_language(item: str, language: Language) -> str:
    """Return a lexicon word of either language in `language`; anything else unchanged."""
    return CHINESE.get(item, item) if language == "zh" else ENGLISH.get(item, item)
