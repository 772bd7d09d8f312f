"""What lies between the stages: the code that writes and reads prepared cases.

The arrays themselves are in ``data/cases/``. Nothing here imports SimpleITK or torch.
"""
