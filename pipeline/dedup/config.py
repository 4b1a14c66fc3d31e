"""What is compared, and from when on it is the same."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: What of a conversation is compared.
Text = Literal["all", "output", "first_input"]

#: What may differ between exact copies.
Normalization = Literal["none", "spaces", "letters"]


class DedupConfig(BaseModel):
    """How duplicates are found, and what becomes of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["drop", "flag"] = Field("drop", description="leave copies out of the data set, or only list them")
    text: Text = Field(
        "all", description="what is compared: all that is said, what the model says, or the first message that it gets"
    )
    system: bool = Field(default=False, description="compare system prompts and tool definitions too")
    normalize: Normalization = Field(
        "spaces",
        description="exact copies may differ in nothing; in white space and Unicode composition; or also in case and width",
    )
    near: bool = Field(default=True, description="find near copies too, not only exact ones")
    threshold: float = Field(
        0.8, ge=0.3, le=1, description="Jaccard similarity of the shingles from which on two are near"
    )
    differing: float = Field(
        0.5,
        ge=0,
        le=1,
        description="the same of what is not equal alone: of the input, and of the output; 0: the whole decides",
    )
    shingle: int = Field(
        5, ge=1, le=32, description="words of a shingle; characters where words have no spaces between"
    )
    min_shingles: int = Field(20, ge=1, description="of fewer different shingles only exact copies are found")
    permutations: int = Field(128, ge=16, le=1024, description="hashes of a signature")
    sources: tuple[str, ...] = Field(
        (), description="corpora whose copy stays before that of others; default: the order of the sources"
    )

    def settings(self) -> dict[str, Any]:
        """What the outcome depends on, as JSON values."""
        return self.model_dump(mode="json")
