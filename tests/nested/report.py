# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the cases came to: TAP on the way, JUnit in the end."""
import re
import time
import xml.etree.ElementTree as xml

# XML 1.0 has no way to write these.
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


class Results:
    def __init__(self, expected):
        self.words = []
        print(f"1..{expected}", flush=True)

    def boot(self, number):
        print(f"# host {number} boots at {time.strftime('%H:%M:%S')}", flush=True)

    def note(self, text):
        print(f"# {text}", flush=True)

    def add(self, word, fault=None):
        """word: case, outcome, text, output, figures, seconds. fault: of the emulator, when the case
        ran the first time."""
        if fault:
            word["figures"].insert(0, f"run for the second time; the first: {fault}")
        self.words.append(word)
        line = f"{len(self.words)} - {word['case']}"
        took = f" ({word['seconds']} s)"
        if word["outcome"] == "passed":
            print(f"ok {line}{took}", flush=True)
        elif word["outcome"] == "skipped":
            print(f"ok {line} # SKIP {word['text'].removeprefix('Skipped: ')}", flush=True)
        else:
            print(f"not ok {line}{took}", flush=True)
        for text in word["figures"]:
            print(f"# {text}", flush=True)
        if word["outcome"] not in ("passed", "skipped"):
            for text in word["text"].splitlines()[-25:]:
                print(f"# {text}", flush=True)

    def fail(self, case, text):
        self.add({"case": case, "outcome": "failed", "text": text, "output": "", "figures": [],
                  "seconds": 0})

    def count(self, outcome):
        return sum(w["outcome"] == outcome for w in self.words)

    def write_junit(self, path, name):
        suite = xml.Element("testsuite", name=name, tests=str(len(self.words)),
                            failures=str(self.count("failed")),
                            skipped=str(self.count("skipped")))
        for word in self.words:
            file, _, test = word["case"].partition("::")
            case = xml.SubElement(suite, "testcase", classname=f"{name}.{file}",
                                  name=test or file, time=str(word["seconds"]))
            text = NOT_XML.sub("?", word["text"])
            if word["outcome"] != "passed":
                kind = "skipped" if word["outcome"] == "skipped" else "failure"
                xml.SubElement(case, kind, message=text[-200:]).text = text
            output = "\n".join([*word["figures"], word["output"]]).strip()
            if output:
                xml.SubElement(case, "system-out").text = NOT_XML.sub("?", output)
        root = xml.Element("testsuites")
        root.append(suite)
        xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)

    def total(self):
        """Print the last line; returns the exit status."""
        passed, failed, skipped = map(self.count, ("passed", "failed", "skipped"))
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
        return 1 if failed or not passed else 0
