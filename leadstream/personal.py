"""Personal data, which is never read: columns by name, and e-mail addresses by form."""

import re

_COLUMNS = frozenset(
    [
        "email",
        "emailaddress",
        "mail",
        "phone",
        "phonenumber",
        "telephone",
        "mobile",
        "mobilenumber",
        "mobilephone",
        "cellphone",
        "name",
        "firstname",
        "lastname",
        "surname",
        "givenname",
        "familyname",
        "fullname",
        "contactname",
        "leadname",
        "personname",
        "namefirst",
        "namelast",
    ]
)
# An address has at most 254 characters; longer texts would cost the square of their length.
_MAX_EMAIL_CHARACTERS = 320
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def is_personal_column(column: str) -> bool:
    """Return whether a column's name says that it holds personal data."""
    return re.sub(r"[\W_\d]+", "", column).lower() in _COLUMNS


def is_email_address(text: str) -> bool:
    """Return whether a text is an e-mail address."""
    return "@" in text and len(text) <= _MAX_EMAIL_CHARACTERS and bool(_EMAIL.fullmatch(text))
