"""Images and documents: from what a client sends to what an upstream can be sent."""

from app.attachments.resolving import AttachmentLimits, Attachments

__all__ = ["AttachmentLimits", "Attachments"]
