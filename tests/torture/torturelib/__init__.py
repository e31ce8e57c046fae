# SPDX-License-Identifier: LGPL-2.1-or-later
"""The torture run: guests that know what every page must hold, and a host that takes what it may."""
