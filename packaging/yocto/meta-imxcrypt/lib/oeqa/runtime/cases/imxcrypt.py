# SPDX-License-Identifier: Apache-2.0
#
# On the target (TEST_SUITES += "imxcrypt"): the program runs, accepts the product's
# configuration, and finds what it needs in the kernel.
import json

from oeqa.runtime.case import OERuntimeTestCase
from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.decorator.package import OEHasPackage


class ImxcryptTest(OERuntimeTestCase):
    @OEHasPackage(['imxcrypt', 'imxcrypt-bin'])
    @OETestDepends(['ssh.SSHTest.test_ssh'])
    def test_version(self):
        status, output = self.target.run('imxcrypt version --json')
        self.assertEqual(status, 0, msg=output)
        self.assertIn('version', json.loads(output))

    @OETestDepends(['imxcrypt.ImxcryptTest.test_version'])
    def test_configuration(self):
        status, output = self.target.run('imxcrypt config check')
        self.assertEqual(status, 0, msg=output)

    @OETestDepends(['imxcrypt.ImxcryptTest.test_configuration'])
    def test_kernel_options(self):
        _, output = self.target.run('imxcrypt doctor')
        wrong = [line for line in output.splitlines() if line.startswith('problem') and 'kernel-options' in line]
        self.assertEqual(wrong, [], msg=output)
