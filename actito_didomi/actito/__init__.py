"""The Actito API: session, structure of profile tables, values, profiles, imports.

It knows nothing of Didomi. What is inferred about the wire format stands in `_wire`.
"""

from actito_didomi.actito.imports import Execution, Imports, RowError
from actito_didomi.actito.profiles import ProfileTable, Written
from actito_didomi.actito.session import open_session
from actito_didomi.actito.table import Attribute, TableStructure, read_table
from actito_didomi.actito.values import ConversionError, ValueType, convert

__all__ = [
    "Attribute",
    "ConversionError",
    "Execution",
    "Imports",
    "ProfileTable",
    "RowError",
    "TableStructure",
    "ValueType",
    "Written",
    "convert",
    "open_session",
    "read_table",
]
