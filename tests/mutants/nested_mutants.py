# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules broken, for the cases of real KVM: a test is "nested CASE". Form: see mutants.py. What is
broken is what other tests notice too; here the question is whether the case would. That a region goes
while its offers are in flight no guest with a true kernel lets happen: it cannot give back memory of
which pages are isolated. Tests that drive the device themselves notice that."""

CASES = {
    ("1", "QEMU does not wait for the executor at a reset"):
        "cases/test_ends.py::test_reset_with_offers_in_flight",
    ("2", "what KSM may hold is marked"):
        "cases/test_ksm.py::test_a_page_left_behind_by_its_other_user",
    ("6", "post-copy forbids nothing"): "cases/test_moving.py::test_post_copy[virtio_ebb]",
    ("6", "a background snapshot forbids nothing"): "cases/test_moving.py::test_background_snapshot",
    ("6", "the VMM's word that forbids discards is not heard"):
        "cases/test_vfio.py::test_nothing_is_discarded_while_a_device_is_given[virtio_ebb]",
}

# What else holds the rule, and is broken with it: a reset changes the map of the memory, and that waits
# for what is in flight, too.
AS_WELL = {
    ("1", "QEMU does not wait for the executor at a reset"):
        [("11", "a region goes while its offers are in flight")],
}


def nested(mutants):
    """The same changes, with the cases as tests."""
    found = {(rule, name): changes for rule, name, changes, _ in mutants}
    return [(key[0], f"nested: {key[1]}", sum((found[k] for k in [key, *AS_WELL.get(key, [])]), []),
             [f"nested nested/{case}"]) for key, case in CASES.items()]
