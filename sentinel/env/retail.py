"""tau2's retail domain, imported quietly: the one door through which the package enters our processes.

On import, tau2 reads the nearest `.env` file into the process, and litellm, which its evaluator imports, fetches a
price list from the network; both are switched off here, so that neither a stranger's file nor the state of the network
reaches a run. Only the light modules are imported (0.6 s CPU); the evaluator and litellm (5 s) belong to
`sentinel.env.official`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

_SWITCHES = {"PYTHON_DOTENV_DISABLED": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@contextmanager
def quiet() -> Iterator[None]:
    """Import tau2 modules without a `.env` file or the network; silences tau2's log for good."""
    logger.disable("tau2")
    added = {name: value for name, value in _SWITCHES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


with quiet():
    from tau2.domains.retail.data_model import CreditCard, GiftCard, Order, OrderItem, Product, RetailDB, User, Variant
    from tau2.domains.retail.tools import RetailTools
    from tau2.domains.retail.utils import RETAIL_DATA_DIR
    from tau2.environment.environment import Environment
    from tau2.environment.toolkit import TOOL_TYPE_ATTR, ToolType

__all__ = [
    "RETAIL_DATA_DIR",
    "TOOL_TYPE_ATTR",
    "CreditCard",
    "Environment",
    "GiftCard",
    "Order",
    "OrderItem",
    "Product",
    "RetailDB",
    "RetailTools",
    "ToolType",
    "User",
    "Variant",
    "quiet",
]
