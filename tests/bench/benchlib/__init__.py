# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests/bench/reuse is made of."""
