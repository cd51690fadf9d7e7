"""Images: pictures with labels and captions, the SiT network, picture and caption teachers."""
