# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests on real guests stand on: kernel, initramfs, QEMU, channel, cgroups, samples."""
