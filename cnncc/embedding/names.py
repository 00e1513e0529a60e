"""C identifiers for the names of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cnncc.ir.errors import InputError

KEYWORDS = frozenset(re.findall(r"\w+", """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t
    class co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue
    decltype default delete do double dynamic_cast else enum explicit export extern false final float for
    friend goto if import inline int long module mutable namespace new noexcept not not_eq nullptr operator
    or or_eq override private protected public register reinterpret_cast requires restrict return short
    signed sizeof static static_assert static_cast struct switch template this thread_local throw true try
    typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t while
    xor xor_eq errno linux main size_t stderr stdin stdout unix ptrdiff_t max_align_t NULL offsetof I EOF
    int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t"""))
"""What C and C++ keep for themselves, and macros and types that common headers and compilers define."""


def check_name(name: str) -> str:
    """The name that begins all symbols. Raises InputError, with a better one, where it is no identifier."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,60}", name) or name in KEYWORDS or "__" in name \
            or name != mangled(name, "net"):
        raise InputError(f"name {name!r}: expected a C identifier of up to 60 letters, digits and single "
                         f"underscores, which C and C++ don't keep for themselves, such as "
                         f"{mangled(name, 'net')!r}")
    return name


def mangled(name: str, otherwise: str) -> str:
    """An identifier that resembles a name; `otherwise` begins those that have no letter first."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60].rstrip("_")
    if not plain[:1].isalpha():
        plain = f"{otherwise}_{plain}".rstrip("_")
    return f"{plain}_" if plain in KEYWORDS else plain


def distinct(names: Iterable[tuple[str, str]], taken: Iterable[str]) -> list[str]:
    """Identifiers for pairs (name, otherwise), none like another or one `taken`, whatever the case."""
    seen, result = {t.upper() for t in taken}, []
    for name, otherwise in names:
        plain = found = mangled(name, otherwise)
        number = 2
        while found.upper() in seen:
            found, number = f"{plain}{'' if plain.endswith('_') else '_'}{number}", number + 1
        seen.add(found.upper())
        result.append(found)
    return result
