"""What a user asks for: one frozen model per job, with `.plan()`; where it runs is the runtime's business."""
