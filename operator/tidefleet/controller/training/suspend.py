"""placeholder"""


class SuspendTrainer:
    pass
