"""Two reward functions. ``arrol train``, TRL and verl's examples call such functions in the same way."""


def correct(completions: list[str], gold: list[str], **columns: object) -> list[float]:
    """1.0 where the text behind the last # is the cell of the column ``gold``, else 0.0."""
    return [float(text.split("#")[-1].strip() == answer) for text, answer in zip(completions, gold, strict=True)]


async def brief(completion_ids: list[list[int]], **columns: object) -> list[float]:
    """Minus the tokens in hundreds. A function may be async, for example to ask a server."""
    return [-len(token_ids) / 100 for token_ids in completion_ids]
