"""Map: addresses to bytes, safely. Pictures and videos from the open web, resized and stripped."""
